"""HTTP that is not a stream: health, models, files, jobs, the page."""
