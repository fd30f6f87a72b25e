import type { NonEmptyReadonlyArray } from "effect/Array"
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { monotonic } from "./monotonic.ts"
import { settled } from "./within.ts"

/**
 * Watches a stream for silence: each pull must end before the moment that `limit` gives for it.
 *
 * One timer serves the whole stream. A timer per pull, which is what `Stream.timeoutOrElse` does, costs five microseconds for every
 * token. The timer only looks while somebody pulls, so a slow reader is never taken for a slow provider.
 */
export const watch = <A, E, E2>(
  self: Stream.Stream<A, E>,
  options: {
    /** The monotonic millisecond at which a pull that starts now must have ended. */
    readonly limit: (now: number) => number
    readonly onParts: (parts: NonEmptyReadonlyArray<A>) => void
    readonly onTimeout: (now: number) => E2
    /** How many milliseconds a pull that is interrupted may take to clean up before the error is returned. */
    readonly grace: (now: number) => number
  }
): Stream.Stream<A, E | E2> =>
  Stream.transformPull(self, (pull, scope) =>
    Effect.withFiber((parent) => {
      const clock = parent.getRef(Clock.Clock)
      const fork = Effect.runForkWith(parent.context)
      let waiting: { readonly limit: number; readonly expire: () => void } | undefined
      let timer: { readonly fiber: Fiber.Fiber<void>; readonly wakesAt: number } | undefined

      const arm = (wakesAt: number): void => {
        timer?.fiber.interruptUnsafe()
        const fiber = fork(clock.sleep(Duration.millis(Math.max(0, wakesAt - monotonic(clock)))))
        const armed = { fiber, wakesAt }
        timer = armed
        fiber.addObserver((exit) => {
          if (timer !== armed || Exit.isFailure(exit)) return
          timer = undefined
          if (waiting === undefined) return
          // A sleep may end a fraction of a millisecond early; a limit that is less than one away has come.
          if (waiting.limit - monotonic(clock) < 1) waiting.expire()
          else arm(waiting.limit)
        })
      }

      const watched: Effect.Effect<NonEmptyReadonlyArray<A>, E | E2 | Cause.Done> = Effect.suspend(() => {
        const limit = options.limit(monotonic(clock))
        const worker = fork(pull)
        const already = worker.pollUnsafe()
        if (already !== undefined) return already
        return Effect.callback<NonEmptyReadonlyArray<A>, E | E2 | Cause.Done>((resume) => {
          let late = false
          const timedOut = () => Effect.suspend(() => Effect.fail(options.onTimeout(monotonic(clock))))
          waiting = {
            limit,
            expire: () => {
              waiting = undefined
              late = true
              const grace = options.grace(monotonic(clock))
              if (grace <= 0) resume(timedOut())
              else if (grace < Infinity) {
                const end = fork(clock.sleep(Duration.millis(grace)))
                end.addObserver((exit) => Exit.isSuccess(exit) && resume(timedOut()))
                worker.addObserver(() => end.interruptUnsafe())
              }
              worker.interruptUnsafe()
            }
          }
          if (limit !== Infinity && (timer === undefined || limit < timer.wakesAt)) arm(limit)
          worker.addObserver((exit) => {
            waiting = undefined
            resume(late ? timedOut() : exit)
          })
          return Effect.suspend(() => {
            waiting = undefined
            worker.interruptUnsafe()
            return options.grace(monotonic(clock)) <= 0 ? Effect.void : settled(worker)
          })
        })
      })

      return Effect.as(
        Scope.addFinalizer(
          scope,
          Effect.sync(() => timer?.fiber.interruptUnsafe())
        ),
        Effect.map(watched, (parts) => {
          options.onParts(parts)
          return parts
        })
      )
    })
  )
