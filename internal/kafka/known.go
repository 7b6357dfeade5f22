package kafka

// Known tells whether an API is known here.
func Known(key int16) bool { return key >= 0 && key <= lastKey }
