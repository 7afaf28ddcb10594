"""`python -m core.cli`."""

import sys

from core.cli.serve import serve

sys.exit(serve(None, as_json=True))
