import type * as Clock from "effect/Clock"

/**
 * Milliseconds of monotonic time. Durations and deadlines are measured with it alone: a wall clock that is stepped back by an
 * hour must not keep a circuit open for an hour.
 */
export const monotonic = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000
