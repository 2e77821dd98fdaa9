"""Faults that happen to searches; docs/faults.md says where each of them is tested."""
