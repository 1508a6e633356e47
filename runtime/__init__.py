"""Transcription with a converted model: audio, features, tokens, engine, decoding, writers. Runs without torch."""
