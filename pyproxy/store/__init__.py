"""Durable state: what each guest's nexus has registered and reserved, open intents, takeover journals."""
