import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"

/** The time of day in whole milliseconds: what outlives the process is measured with it. */
export const wall = (clock: Clock.Clock): number => Math.floor(clock.currentTimeMillisUnsafe())

export const wallNow: Effect.Effect<number> = Clock.clockWith((clock) => Effect.succeed(wall(clock)))
