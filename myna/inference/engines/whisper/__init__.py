"""Whisper on CTranslate2, in the folders of faster-whisper."""
