"""Into the stream and out of it: messages of devices, events of sessions."""
