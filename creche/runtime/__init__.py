"""The ground floor: actors, cells, handles, deadlines, events, and the runtime that holds them."""
