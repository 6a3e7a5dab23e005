"""A chat message service: the main job of creche, small enough to read in one sitting.

Read it in this order: `model`, `errors`, `repository` (reads through the cache), `service` (what the service does),
`counters`, `distribution` and `delivery` (what follows from a message), `api` (HTTP), `app` (how it is put together),
`killer` and `demo` (how it is proved)."""
