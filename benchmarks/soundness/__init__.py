"""What must never happen, looked for with random calls and with tools that watch memory."""
