"""What libiscsi's iscsi-test-cu asserts, through IscsiDevice, of a target that nobody here wrote (tgt).

The tests are those of tests/conformance, collected here again; where tgt differs is in ``tgt.json``.
"""
