"""`python -m search`: the command as a job runs it on a cluster's head."""

import os
import sys

from search.cli import main
from search.errors import UsageError

given = os.environ.get("KDCURVE_HOME") or any(arg.split("=")[0] == "--home" for arg in sys.argv)
if not given:  # the default would lie in the job's own folder
    sys.stderr.write(
        "kdcurve: the cluster does not say where searches live; set KDCURVE_HOME in its cluster "
        "file, or give --home, a folder that all machines share\n"
    )
    sys.exit(UsageError.exit_code)
main()
