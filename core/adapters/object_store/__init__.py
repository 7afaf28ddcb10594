"""Where exported files are: a folder, memory or S3."""
