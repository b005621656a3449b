"""`python -m prosg`."""

from prosg.cli import main

raise SystemExit(main())
