import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"

/** Lets fibers wait until mutable state satisfies a condition. `notify` must follow every change that could. */
export interface Waiting {
  readonly notify: () => void
  readonly awaited: (isReady: () => boolean) => Effect.Effect<void>
}

export const makeWaiting = (): Waiting => {
  const waiters = new Set<{ readonly isReady: () => boolean; readonly ready: Deferred.Deferred<void> }>()
  return {
    notify: () => {
      for (const { isReady, ready } of waiters) if (isReady()) Deferred.doneUnsafe(ready, Effect.void)
    },
    awaited: (isReady) =>
      Effect.suspend(() => {
        if (isReady()) return Effect.void
        const waiter = { isReady, ready: Deferred.makeUnsafe<void>() }
        waiters.add(waiter)
        return Effect.ensuring(
          Deferred.await(waiter.ready),
          Effect.sync(() => waiters.delete(waiter))
        )
      })
  }
}
