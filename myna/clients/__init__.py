"""The client side: live client, microphone, file streamer, terminal display, web page."""
