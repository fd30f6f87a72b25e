import type * as Clock from "effect/Clock"

/** Milliseconds of monotonic time. */
export const monotonic = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000
