"""What runs at the user's: live client, microphone, file streamer."""
