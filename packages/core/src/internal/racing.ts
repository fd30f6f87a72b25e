import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import { alarmOf } from "./alarm.ts"
import { monotonic } from "./monotonic.ts"
import { settled } from "./within.ts"

/**
 * Runs an effect and, when it has not ended after `millis`, a second one beside it, which is asked for at that moment and may be declined. It is
 * started at once, so that `second` may take what the effect gives back when it ends.
 *
 * The first success ends both, and so does a failure that is `fatal`. Any other failure waits for the one that is still running; when
 * both fail, the later failure is the result. The loser is interrupted and not waited for: its cleanup must not cost what the race has won.
 * A caller who leaves waits for the cleanup of both, as everywhere in Effect.
 *
 * `Effect.raceAll` with a delayed second would keep the delay although the first had failed, wait for the loser's cleanup, and let nobody
 * decline.
 */
export const racing = <A, E>(
  first: Effect.Effect<A, E>,
  millis: number,
  second: (now: number) => Effect.Effect<A, E> | undefined,
  fatal: (cause: Cause.Cause<E>) => boolean
): Effect.Effect<A, E> =>
  Effect.withFiber((parent) => {
    const fork = Effect.runForkWith(parent.context)
    return Effect.callback<A, E>((resume) => {
      const running = new Set<Fiber.Fiber<unknown, unknown>>()
      let stop = (): void => {}
      let over = false
      const finish = (exit: Exit.Exit<A, E>): void => {
        over = true
        stop()
        for (const fiber of running) fiber.interruptUnsafe()
        resume(exit)
      }
      const start = (leg: Effect.Effect<A, E>): void => {
        const fiber = fork(leg)
        const ended = (exit: Exit.Exit<A, E>): void => {
          running.delete(fiber)
          if (over) return
          if (Exit.isSuccess(exit) || fatal(exit.cause) || running.size === 0) finish(exit)
        }
        const already = fiber.pollUnsafe()
        if (already !== undefined) return ended(already)
        running.add(fiber)
        fiber.addObserver(ended)
      }
      start(first)
      if (running.size > 0) {
        const clock = parent.getRef(Clock.Clock)
        stop = alarmOf(parent).after(millis, () => {
          fork(
            Effect.sync(() => {
              const leg = over ? undefined : second(monotonic(clock))
              if (leg !== undefined) start(leg)
            })
          )
        })
      }
      return Effect.suspend(() => {
        const legs = [...running]
        over = true
        stop()
        for (const fiber of legs) fiber.interruptUnsafe()
        return Effect.forEach(legs, settled, { discard: true })
      })
    })
  })
