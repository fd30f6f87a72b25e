import type { NonEmptyReadonlyArray } from "effect/Array"
import type * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { monotonic } from "./monotonic.ts"
import { settled } from "./within.ts"

/**
 * Watches a stream for silence: each pull, the set-up of the stream included, must end before the moment that `limit` gives for it.
 *
 * One timer serves the whole stream. A timer per pull, which is what `Stream.timeoutOrElse` does, costs five microseconds for every
 * token. The timer only looks while somebody pulls, so a slow reader is never taken for a slow provider.
 *
 * What the stream acquires belongs to a scope of its own. After a timeout it has `grace` milliseconds to clean up before the error is
 * returned; what it does after that is behind the reader's back.
 */
export const watch = <A, E, E2>(
  self: Stream.Stream<A, E>,
  options: {
    /** The monotonic millisecond at which a pull that starts now must have ended. */
    readonly limit: (now: number) => number
    /** The monotonic millisecond after which nothing is passed on, not even what is there already. */
    readonly expiresAt: number
    readonly onParts: (parts: NonEmptyReadonlyArray<A>) => void
    readonly onTimeout: (now: number) => E2
    readonly grace: (now: number) => number
  }
): Stream.Stream<A, E | E2> =>
  Stream.fromChannel(
    Channel.fromTransform((_, scope) =>
      Effect.withFiber((parent) => {
        const clock = parent.getRef(Clock.Clock)
        const fork = Effect.runForkWith(parent.context)
        const inner = Scope.makeUnsafe()
        let abandoned = false
        let waiting: { readonly limit: number; readonly expire: () => void } | undefined
        let timer: { readonly fiber: Fiber.Fiber<void>; readonly wakesAt: number } | undefined
        let pull: Pull.Pull<NonEmptyReadonlyArray<A>, E> = Effect.flatMap(
          Channel.toPullScoped(self.channel, inner),
          (ready) => {
            pull = ready
            return ready
          }
        )

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

        const timedOut = Effect.suspend(() => Effect.fail(options.onTimeout(monotonic(clock))))

        const watched: Effect.Effect<NonEmptyReadonlyArray<A>, E | E2 | Cause.Done> = Effect.suspend(() => {
          const now = monotonic(clock)
          const limit = options.limit(now)
          if (options.expiresAt <= now) {
            // The time is over while the reader was busy: nothing of it is left for cleaning up in front of the reader.
            if (!abandoned) {
              abandoned = true
              fork(Scope.close(inner, Exit.void))
            }
            return timedOut
          }
          return Effect.callback<NonEmptyReadonlyArray<A>, E | E2 | Cause.Done>((resume) => {
            const worker = fork(pull)
            const already = worker.pollUnsafe()
            if (already !== undefined) return resume(already)
            const expire = (): void => {
              waiting = undefined
              abandoned = true
              worker.interruptUnsafe()
              const grace = options.grace(monotonic(clock))
              const cleaning = fork(Effect.andThen(settled(worker), Scope.close(inner, Exit.void)))
              if (grace <= 0) return resume(timedOut)
              const end = grace < Infinity ? fork(clock.sleep(Duration.millis(grace))) : undefined
              end?.addObserver((exit) => Exit.isSuccess(exit) && resume(timedOut))
              cleaning.addObserver(() => {
                end?.interruptUnsafe()
                resume(timedOut)
              })
            }
            waiting = { limit, expire }
            if (limit !== Infinity && (timer === undefined || limit < timer.wakesAt)) arm(limit)
            worker.addObserver((exit) => {
              waiting = undefined
              if (!abandoned) resume(exit)
            })
            return Effect.suspend(() => {
              waiting = undefined
              worker.interruptUnsafe()
              return settled(worker)
            })
          })
        })

        return Effect.as(
          Scope.addFinalizerExit(scope, (exit) => {
            timer?.fiber.interruptUnsafe()
            return abandoned ? Effect.void : Scope.close(inner, exit)
          }),
          Effect.map(watched, (parts) => {
            options.onParts(parts)
            return parts
          })
        )
      })
    )
  )
