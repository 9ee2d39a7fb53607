"""The command `clbench`, also as `python -m clbench`."""

from clbench.cli.app import main

if __name__ == "__main__":
    main()
