"""The batch path: files, fetching from URLs, jobs and their results."""
