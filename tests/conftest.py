"""What all tests share: Hypothesis measures no time, since machines are noisy."""

from hypothesis import HealthCheck, settings

settings.register_profile("ccapi", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ccapi")
