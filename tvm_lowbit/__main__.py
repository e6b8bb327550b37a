"""``python -m tvm_lowbit`` is ``tvm-lowbit``."""

from tvm_lowbit.cli import main

if __name__ == "__main__":
    main()
