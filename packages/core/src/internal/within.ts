import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"

/**
 * Runs an effect and ends it with `onTimeout` when `millis` have passed.
 *
 * `cooperative` interrupts the loser and waits until it has cleaned up. `hard` returns on time and leaves the loser to clean up on its own: with `Effect.timeout` a provider whose cleanup takes three seconds would keep the
 * caller three seconds too long. An effect that completes at once never starts a timer.
 */
export const within = <A, E, E2>(
  self: Effect.Effect<A, E>,
  millis: number,
  onTimeout: () => Effect.Effect<never, E2>,
  ending: "cooperative" | "hard"
): Effect.Effect<A, E | E2> => {
  if (millis === Infinity) return self
  return Effect.withFiber((parent): Effect.Effect<A, E | E2> => {
    const fork = Effect.runForkWith(parent.context)
    const worker: Fiber.Fiber<A, E> = fork(self)
    const already = worker.pollUnsafe()
    if (already !== undefined) return already
    return Effect.callback<A, E | E2>((resume) => {
      let late = false
      worker.addObserver((exit) => {
        timer.interruptUnsafe()
        resume(late ? onTimeout() : exit)
      })
      const timer = fork(Clock.clockWith((clock) => clock.sleep(Duration.millis(Math.max(0, millis)))))
      timer.addObserver((exit) => {
        if (Exit.isFailure(exit)) return
        late = true
        worker.interruptUnsafe()
        if (ending === "hard") resume(onTimeout())
      })
      return Effect.suspend(() => {
        timer.interruptUnsafe()
        worker.interruptUnsafe()
        return ending === "hard" ? Effect.void : settled(worker)
      })
    })
  })
}

/** Waits until a fiber has ended, however it ends. */
export const settled = (fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const stop = fiber.addObserver(() => resume(Effect.void))
    return Effect.sync(stop)
  })
