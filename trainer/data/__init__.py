"""From files on disk to batches of pixels: layouts, shards, folders, augmentation."""
