"""The store of record: repositories written once, over engines that know partitions and batches only."""
