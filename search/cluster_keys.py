"""Keys of a cluster file that Ray's own schema leaves unchecked, so that a typo is found."""

from typing import Any


def _keys(text: str, **nested: Any) -> dict[str, Any]:
    return {**dict.fromkeys(text.split()), **nested}


_UPDATERS = (
    "disable_node_updaters disable_launch_config_check foreground_node_launch "
    "worker_liveness_check worker_rpc_drain use_internal_ips type "
)
PROVIDERS: dict[str, dict[str, Any]] = {
    "aws": _keys(
        _UPDATERS + "region availability_zone cache_stopped_nodes key_pair aws_credentials "
        "cloudwatch",
        security_group=_keys("GroupName IpPermissions"),
    ),
    "local": _keys(_UPDATERS + "head_ip worker_ips external_head_ip coordinator_address"),
}
"""What Ray 2.60 reads of `provider`, by its type."""

_EBS = _keys(
    "AvailabilityZone AvailabilityZoneId DeleteOnTermination EbsCardIndex Encrypted Iops KmsKeyId "
    "OutpostArn SnapshotId Throughput VolumeInitializationRate VolumeSize VolumeType"
)
_SPOT = _keys(
    "BlockDurationMinutes InstanceInterruptionBehavior MaxPrice SpotInstanceType ValidUntil"
)
EC2: dict[str, Any] = _keys(
    "AdditionalInfo CapacityReservationSpecification ClientToken DisableApiStop "
    "DisableApiTermination DryRun EbsOptimized ElasticGpuSpecification "
    "ElasticInferenceAccelerators EnablePrimaryIpv6 ImageId InstanceInitiatedShutdownBehavior "
    "InstanceType Ipv6AddressCount Ipv6Addresses KernelId KeyName LicenseSpecifications MaxCount "
    "MinCount Operator PrivateIpAddress RamdiskId SecondaryInterfaces SecurityGroupIds "
    "SecurityGroups SubnetId SubnetIds UserData",
    BlockDeviceMappings=_keys("DeviceName NoDevice VirtualName", Ebs=_EBS),
    CpuOptions=_keys("AmdSevSnp CoreCount NestedVirtualization ThreadsPerCore"),
    CreditSpecification=_keys("CpuCredits"),
    EnclaveOptions=_keys("Enabled"),
    HibernationOptions=_keys("Configured"),
    IamInstanceProfile=_keys("Arn Name"),
    InstanceMarketOptions=_keys("MarketType", SpotOptions=_SPOT),
    LaunchTemplate=_keys("LaunchTemplateId LaunchTemplateName Version"),
    MaintenanceOptions=_keys("AutoRecovery"),
    MetadataOptions=_keys(
        "HttpEndpoint HttpProtocolIpv6 HttpPutResponseHopLimit HttpTokens InstanceMetadataTags"
    ),
    Monitoring=_keys("Enabled MetricCategoryIds"),
    NetworkInterfaces=_keys(
        "AssociateCarrierIpAddress AssociatePublicIpAddress ConnectionTrackingSpecification "
        "DeleteOnTermination Description DeviceIndex EnaQueueCount EnaSrdSpecification Groups "
        "InterfaceType Ipv4PrefixCount Ipv4Prefixes Ipv6AddressCount Ipv6Addresses "
        "Ipv6PrefixCount Ipv6Prefixes NetworkCardIndex NetworkInterfaceId PrimaryIpv6 "
        "PrivateIpAddress PrivateIpAddresses SecondaryPrivateIpAddressCount SubnetId"
    ),
    NetworkPerformanceOptions=_keys("BandwidthWeighting"),
    Placement=_keys(
        "Affinity AvailabilityZone AvailabilityZoneId GroupId GroupName HostId "
        "HostResourceGroupArn PartitionNumber SpreadDomain Tenancy"
    ),
    PrivateDnsNameOptions=_keys(
        "EnableResourceNameDnsAAAARecord EnableResourceNameDnsARecord HostnameType"
    ),
    TagSpecifications=_keys("ResourceType Tags"),
)
"""A `node_config` on AWS: parameters of EC2's RunInstances, and Ray's SubnetIds.

Nested where a typo is likely; None is not looked into.
"""
