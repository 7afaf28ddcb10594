"""`python -m core.cli serve [--config FILE] [--json]`."""

import argparse
import sys
from pathlib import Path

from core.cli.serve import serve

parser = argparse.ArgumentParser()
parser.add_argument("command")
parser.add_argument("--config", type=Path)
parser.add_argument("--json", action="store_true")
options = parser.parse_args()
sys.exit(serve(options.config, as_json=options.json))
