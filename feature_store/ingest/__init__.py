"""From a landing folder to staged tables, as a cohort contract says. Reads sources; never touches the published store."""
