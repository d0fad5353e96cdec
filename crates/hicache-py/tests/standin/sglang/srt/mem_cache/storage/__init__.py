"""A light stand-in for SGLang, so that the adapter is tested where SGLang is not installed."""
