"""Between the event loop and code that may block: executors and listeners, each on a thread of its own."""
