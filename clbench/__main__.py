"""`python -m clbench` is the command `clbench`."""

from clbench.cli import main

if __name__ == "__main__":
    main()
