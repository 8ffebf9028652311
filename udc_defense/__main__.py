"""`python -m udc_defense`."""

import sys

from udc_defense.cli import main

sys.exit(main())
