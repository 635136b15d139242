"""``python3 host.pyz``."""

import sys

from orchestrator.deploy.host.cli import main

sys.exit(main(sys.argv[1:]))
