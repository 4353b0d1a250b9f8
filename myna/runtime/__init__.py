"""Common parts of the server's processes: supervision, deadlines, threads, memory, file descriptors, errors."""
