"""Assigns jobs to workers and estimates how many streams a model can serve. Pure: no clock, thread or model."""
