import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { alarmOf } from "./alarm.ts"
import { monotonic } from "./monotonic.ts"

/**
 * Runs an effect and ends it with `onTimeout` when `millis` have passed.
 *
 * The loser is interrupted and has `grace` milliseconds to clean up before the error is returned; what it does after that is behind the
 * caller's back. With `Effect.timeout` a provider whose cleanup takes three seconds would keep the caller three seconds too long. When
 * the caller itself is interrupted, it waits for the cleanup, as everywhere in Effect. An effect that completes at once starts no timer.
 */
export const within = <A, E, E2>(
  self: Effect.Effect<A, E>,
  millis: number,
  onTimeout: () => Effect.Effect<A, E2>,
  grace: number
): Effect.Effect<A, E | E2> =>
  millis === Infinity
    ? self
    : Effect.withFiber((parent) =>
        until(parent, self, monotonic(parent.getRef(Clock.Clock)) + millis, onTimeout, grace)
      )

/** The same up to a monotonic millisecond, for who has the fiber that it is for, and has read the clock. */
export const until = <A, E, E2>(
  parent: Fiber.Fiber<unknown, unknown>,
  self: Effect.Effect<A, E>,
  due: number,
  onTimeout: () => Effect.Effect<A, E2>,
  grace: number
): Effect.Effect<A, E | E2> => {
  if (due === Infinity) return self
  // Forked in the registration, so that no interruption can come between the fork and the promise to clean up after it.
  return Effect.callback<A, E | E2>((resume) => {
    const worker = Effect.runForkWith(parent.context)(self)
    const already = worker.pollUnsafe()
    if (already !== undefined) return resume(already)
    let late = false
    const alarm = alarmOf(parent)
    worker.addObserver((exit) => {
      stop()
      resume(late ? onTimeout() : exit)
    })
    let stop = alarm.at(due, () => {
      late = true
      // First stop the loser, then let the caller go on: whatever it asks next must not meet what the loser still holds.
      worker.interruptUnsafe()
      if (worker.pollUnsafe() !== undefined || grace === Infinity) return
      if (grace <= 0) resume(onTimeout())
      else stop = alarm.after(grace, () => resume(onTimeout()))
    })
    return Effect.suspend(() => {
      stop()
      worker.interruptUnsafe()
      return settled(worker)
    })
  })
}

/** Waits until a fiber has ended, however it ends. */
export const settled = (fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const stop = fiber.addObserver(() => resume(Effect.void))
    return Effect.sync(stop)
  })
