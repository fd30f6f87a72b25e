import * as Effect from "effect/Effect"
import { type DeferredStore, StoreError } from "../DeferredStore.ts"
import { within } from "./within.ts"

/**
 * A deferred store each operation of which ends in time, and fails with an error of the store whatever its driver does.
 *
 * What is given up may have been done, or be done later; every operation is such that this does no harm. A claim that comes late is given
 * back as if nobody had tried it, which nobody has; after a `lease` it is worth nothing any more.
 */
export const guarded = (
  store: DeferredStore["Service"],
  { lease, storeWithin }: { readonly lease: number; readonly storeWithin: number }
): DeferredStore["Service"] => {
  const failing =
    (operation: string) =>
    (cause: unknown): Effect.Effect<never, StoreError> =>
      Effect.fail(new StoreError({ operation, cause }))
  const sound = <A>(operation: string, ask: () => Effect.Effect<A, StoreError>): Effect.Effect<A, StoreError> =>
    Effect.catchDefect(Effect.suspend(ask), failing(operation))
  const inTime = <A>(
    operation: string,
    ask: () => Effect.Effect<A, StoreError>,
    millis = storeWithin
  ): Effect.Effect<A, StoreError> =>
    within(leaving(sound(operation, ask)), millis, () => failing(operation)(tooLong), 0)

  return {
    insert: (entry, capacity) => inTime("insert", () => store.insert(entry, capacity)),
    claim: (options) =>
      Effect.suspend(() => {
        let late = false
        const claiming = Effect.tap(
          sound("claim", () => store.claim(options)),
          (row) =>
            !late || row === undefined
              ? Effect.void
              : store.release({
                  ticket: row.ticket,
                  claim: row.claim,
                  visibleAt: options.now,
                  refund: true,
                  note: row.note
                })
        )
        // Nobody waits any longer, but it goes on.
        const whole = Effect.uninterruptible(within(claiming, lease, () => failing("claim")(tooLong), 0))
        const tooLate = () => {
          late = true
          return failing("claim")(tooLong)
        }
        // The rest of the lease lasts until it is renewed for the first time.
        return within(whole, Math.min(storeWithin, lease / 3), tooLate, 0)
      }),
    // Every third of a lease: when one of them hangs, the next one still comes in time.
    renew: (options) => inTime("renew", () => store.renew(options), Math.min(storeWithin, lease / 6)),
    release: (options) => inTime("release", () => store.release(options)),
    settle: (options) => inTime("settle", () => store.settle(options)),
    cancel: (options) => inTime("cancel", () => store.cancel(options)),
    expire: (now) => inTime("expire", () => store.expire(now)),
    find: (ticket) => inTime("find", () => store.find(ticket)),
    counts: inTime("counts", () => store.counts),
    dead: (limit) => inTime("dead", () => store.dead(limit)),
    requeue: (options) => inTime("requeue", () => store.requeue(options)),
    claimDelivery: (options) => inTime("claimDelivery", () => store.claimDelivery(options)),
    endDelivery: (options) => inTime("endDelivery", () => store.endDelivery(options)),
    prune: (options) => inTime("prune", () => store.prune(options))
  }
}

const tooLong = "It took too long"

// Whoever leaves does not wait for a driver that does not stop.
const leaving = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.withFiber((parent) =>
    Effect.callback<A, E>((resume) => {
      const fiber = Effect.runForkWith(parent.context)(effect)
      fiber.addObserver(resume)
      return Effect.sync(() => fiber.interruptUnsafe())
    })
  )
