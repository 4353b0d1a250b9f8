"""What transducers of any runtime share: their tokens as words, and the followers of utterances."""
