"""The pass-through engines on real device nodes, in the virtual machine of the tests."""
