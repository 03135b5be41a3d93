"""What all tests share: Hypothesis measures no time, since machines are noisy, and a session raises
on an event that fits no phase, which it only logs in production."""

from hypothesis import HealthCheck, settings

from ccapi.actors.session import actor

settings.register_profile("ccapi", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ccapi")

actor.RAISE_UNEXPECTED = True
