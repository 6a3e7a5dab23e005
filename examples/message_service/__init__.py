"""A chat message service: the main job of creche, small enough to read in one sitting.

Read it in this order: `model`, `errors`, `service` (what the service does), `counters` (what follows from a message),
`api` (HTTP), `app` (how it is put together), `killer` and `demo` (how it is proved)."""
