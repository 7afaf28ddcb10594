"""From stored usage to a bill: metering, tariff, rating, statement, export."""
