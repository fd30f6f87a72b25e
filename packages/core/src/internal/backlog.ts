import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Decision from "../Decision.ts"
import type { Settled } from "../DeferredQueue.ts"
import * as DeferredStore from "../DeferredStore.ts"
import { wasRefused } from "../LlmUnavailable.ts"
import type { Provider } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import * as ResilienceEvent from "../ResilienceEvent.ts"
import * as Timeouts from "../Timeouts.ts"
import { anyRequest } from "./anyRequest.ts"
import { type Health, ill, type Pace, paced, unknown, well } from "./backlogPace.ts"
import * as Bell from "./bell.ts"
import * as Codec from "./deferredCodec.ts"
import { dying, isHopeless } from "./deferring.ts"
import { monotonic } from "./monotonic.ts"
import { wall } from "./wall.ts"
import { within } from "./within.ts"

/** What a worker of the queue shares with the rest of it. Times are milliseconds. */
export interface Backlog {
  readonly store: DeferredStore.DeferredStore["Service"]
  readonly table: Decision.Table
  readonly hubs: Set<ResilienceEvent.Hub>
  /** Rung when something was handed in. */
  readonly workers: Set<Bell.Bell>
  /** Rung when something ended. */
  readonly deliveries: Set<Bell.Bell>
  /** Who is asking for which ticket. */
  readonly asking: Map<string, Fiber.Fiber<unknown, unknown>>
  readonly ended: (ticket: string, outcome: Settled["_tag"]) => void
  readonly publish: (event: () => ResilienceEvent.ResilienceEvent) => void
  readonly handler: ((settled: Settled) => Effect.Effect<void, unknown>) | undefined
  readonly maxAttempts: number
  readonly concurrency: number
  readonly keep: number
  readonly backoff: number
  readonly maxBackoff: number
  readonly every: number
  readonly deadline: Duration.Duration
  readonly lease: number
  readonly poll: number
  readonly keepFor: number
}

/** Asks a provider for answers until it is interrupted. */
export const workingOff = ({
  asking,
  backoff,
  concurrency,
  deadline,
  deliveries,
  ended,
  every,
  handler,
  hubs,
  keep,
  keepFor,
  lease,
  maxAttempts,
  maxBackoff,
  poll,
  publish,
  store,
  table,
  workers
}: Backlog): ((provider: Provider) => Effect.Effect<never>) => {
  const storeFailed = ({ cause, operation }: DeferredStore.StoreError): Effect.Effect<void> =>
    Effect.sync(() => publish(() => ({ _tag: "DeferredStoreFailed", operation, cause })))

  // A worker that ends would leave the queue to nobody, so it outlives what its store dies of.
  const surviving = <A>(work: Effect.Effect<A, DeferredStore.StoreError>, otherwise: A): Effect.Effect<A> =>
    work.pipe(
      Effect.catchDefect(dying("work")),
      Effect.catch((error) => Effect.as(storeFailed(error), otherwise))
    )

  // Asks for one entry and writes down what came of it. Returns whether the chain is well, as far as this one tells.
  const ask = (provider: Provider, row: DeferredStore.Row): Effect.Effect<Health> =>
    Effect.gen(function* () {
      if (row.attempts > maxAttempts) {
        // Whoever claimed it for the last time died with it.
        yield* settle(row, "dead", undefined, row.note ?? "The worker died with it")
        return unknown
      }
      const decoded = yield* Effect.exit(Codec.decodeRequest(row.request))
      if (Exit.isFailure(decoded)) {
        yield* settle(row, "dead", undefined, "The stored request cannot be read")
        return unknown
      }
      const answered = yield* Effect.exit(
        Effect.flatMap(provider.generate({ ...decoded.value, deadline }), Codec.encodeResponse)
      )
      if (Exit.isSuccess(answered)) {
        yield* settle(row, "answered", answered.value, undefined)
        return well
      }
      if (Cause.hasInterruptsOnly(answered.cause)) return yield* Effect.failCause(answered.cause as Cause.Cause<never>)
      const error = answered.cause.reasons.find(Cause.isFailReason)?.error
      const failed = error !== undefined && error._tag !== "SchemaError" ? error : undefined
      if (failed?._tag === "LlmUnavailable") {
        if (isHopeless(failed)) {
          yield* settle(row, "dead", undefined, failed.message)
          return well
        }
        yield* again(row, failed.message, wasRefused(failed) ? (failed.retryAfter ?? Duration.millis(poll)) : undefined)
        return ill(failed.retryAfter)
      }
      const reason =
        failed === undefined ? Cause.pretty(answered.cause) : `${ProviderError.kind(failed)}: ${failed.message}`
      if (failed !== undefined && Decision.of(table, failed).fallOver === "no") {
        yield* settle(row, "dead", undefined, reason)
        return well
      }
      yield* again(row, reason, undefined)
      return failed === undefined ? unknown : ill(ProviderError.retryAfter(failed))
    })

  const settle = (
    row: DeferredStore.Row,
    state: "answered" | "dead",
    result: string | undefined,
    note: string | undefined
  ): Effect.Effect<void> => {
    const { claim, ticket } = row
    // Whether it was written down by the one who holds the claim, which is who asks, although the store could not say so.
    const wasFirst = Effect.map(store.find(ticket), (found) => found?.claim === claim && found.state === state)
    let doubtful = false
    return Clock.clockWith((clock) => store.settle({ ticket, claim, now: wall(clock), state, result, note })).pipe(
      Effect.tapError((error) => {
        doubtful = true
        return storeFailed(error)
      }),
      // What is not written down within the lease is asked again by somebody.
      Effect.retry({ times: 3, schedule: settleAgain }),
      Effect.flatMap((first) => (first || !doubtful ? Effect.succeed(first) : wasFirst)),
      Effect.match({
        onFailure: () => {},
        onSuccess: (first) => {
          if (first) ended(ticket, state === "answered" ? "Answered" : "Dead")
        }
      }),
      Effect.uninterruptible
    )
  }

  // With `untriedFor` the attempt does not count: nobody was asked, and for that long nobody need be.
  const again = (
    row: DeferredStore.Row,
    note: string | undefined,
    untriedFor: Duration.Duration | undefined
  ): Effect.Effect<void> =>
    untriedFor === undefined && row.attempts >= maxAttempts
      ? settle(row, "dead", undefined, note)
      : Clock.clockWith((clock) => {
          const delay = untriedFor === undefined ? backoff * 2 ** (row.attempts - 1) : Duration.toMillis(untriedFor)
          const visibleAt = wall(clock) + Math.ceil(Math.min(maxBackoff, delay))
          const refund = untriedFor !== undefined
          return store.release({ ticket: row.ticket, claim: row.claim, visibleAt, refund, note })
        }).pipe(Effect.catch(storeFailed), Effect.asVoid, Effect.uninterruptible)

  const deliver = (
    owner: string,
    handler: NonNullable<Backlog["handler"]>,
    holding: (ticket: string | undefined) => void
  ): Effect.Effect<never> =>
    Effect.scoped(
      Effect.gen(function* () {
        const clock = yield* Clock.Clock
        const bell = yield* hung(deliveries)
        const next = Effect.gen(function* () {
          const now = wall(clock)
          const row = yield* store.claimDelivery({ owner, now, leaseUntil: now + lease })
          if (row === undefined) return false
          const settled = yield* (
            Codec.settledOf(row) ??
              Effect.fail(new DeferredStore.StoreError({ operation: "deliver", cause: row.state }))
          )
          holding(row.ticket)
          // One that never ends would be renewed for ever as well, and keep all others from being told.
          const handling = within(
            Effect.suspend(() => handler(settled)),
            Duration.toMillis(deadline),
            () => Effect.fail("It took too long"),
            0
          )
          const exit = yield* Effect.exit(handling)
          holding(undefined)
          const retryAt = Exit.isSuccess(exit) ? undefined : wall(clock) + lease
          yield* store.endDelivery({ ticket: row.ticket, owner, retryAt })
          return true
        })
        return yield* Effect.forever(
          Effect.flatMap(surviving(next, false), (more) => (more ? Effect.void : bell.heard(poll)))
        )
      })
    )

  return (provider: Provider): Effect.Effect<never> =>
    Effect.scoped(
      Effect.gen(function* () {
        const owner = SecureRandom.uuidV4Unsafe()
        const clock = yield* Clock.Clock
        const scope = yield* Effect.scope
        // A request that is never given up would be renewed for ever.
        const bounded = yield* Timeouts.deadline(provider)
        const bell = yield* hung(workers)
        const hub = yield* ResilienceEvent.CurrentHub
        yield* Effect.acquireRelease(
          Effect.sync(() => hubs.add(hub)),
          () => Effect.sync(() => hubs.delete(hub))
        )
        let pace: Pace = { allowed: 1, failures: 0, notBefore: -Infinity }
        const held = new Set<DeferredStore.Row>()
        let delivering: string | undefined
        let prunedAt = -Infinity

        const sweep = Effect.gen(function* () {
          const now = wall(clock)
          for (const ticket of yield* store.expire(now)) ended(ticket, "Expired")
          if (monotonic(clock) - prunedAt < pruneEvery) return
          prunedAt = monotonic(clock)
          yield* store.prune({ before: now - keepFor, keep })
        })

        const start = (row: DeferredStore.Row) =>
          Effect.gen(function* () {
            held.add(row)
            pace = { ...pace, notBefore: monotonic(clock) + every }
            const work = Effect.onExit(ask(bounded, row), (exit) =>
              Effect.gen(function* () {
                held.delete(row)
                // Somebody else may be asking by now, after the lease was lost.
                if (asking.get(row.ticket) === (yield* Effect.fiber)) asking.delete(row.ticket)
                if (Exit.isSuccess(exit))
                  pace = paced(pace, exit.value, concurrency, monotonic(clock), yield* Random.next)
                else yield* again(row, row.note, Cause.hasInterruptsOnly(exit.cause) ? Duration.zero : undefined)
                bell.ring()
              })
            )
            // At once: a fiber that is interrupted before it runs has no end that anybody sees.
            const fiber = yield* Effect.forkIn(work, scope, { startImmediately: true })
            if (fiber.pollUnsafe() === undefined) asking.set(row.ticket, fiber)
          })

        // One look at the queue: returns how long to wait for the bell before the next one, 0 for not at all.
        const turn = Effect.gen(function* () {
          if (held.size >= pace.allowed) return poll
          // Timers know whole milliseconds: what is less is over.
          const rest = Math.ceil(pace.notBefore - monotonic(clock) - 0.5)
          if (rest > 0) return yield* Effect.as(Effect.sleep(Math.min(rest, poll)), 0)
          const reason = provider.availability(anyRequest, monotonic(clock))
          if (reason !== undefined) {
            if (held.size === 0) pace = { ...pace, allowed: 1 }
            return poll
          }
          const now = wall(clock)
          const row = yield* Effect.uninterruptible(
            Effect.tap(store.claim({ owner, now, leaseUntil: now + lease }), (row) =>
              row === undefined ? Effect.void : start(row)
            )
          )
          return row === undefined ? poll : 0
        })

        // What the store could not write down, or did and could not say, is not held: its lease lapses, and it is taken up again.
        const beat = surviving(
          Effect.suspend(() => {
            const tickets = [
              ...Array.from(held, ({ ticket }) => ticket),
              ...(delivering === undefined ? [] : [delivering])
            ]
            return tickets.length === 0 ? Effect.void : store.renew({ owner, tickets, leaseUntil: wall(clock) + lease })
          }),
          undefined
        )
        yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(lease / 3), beat)))
        // Beside the work, which goes on where only this goes wrong.
        yield* Effect.forkScoped(Effect.forever(Effect.andThen(surviving(sweep, undefined), Effect.sleep(poll))))
        const holding = (ticket: string | undefined): void => {
          delivering = ticket
        }
        if (handler !== undefined) yield* Effect.forkScoped(deliver(owner, handler, holding))
        return yield* Effect.forever(
          Effect.flatMap(surviving(turn, poll), (millis) => (millis === 0 ? Effect.void : bell.heard(millis)))
        )
      })
    )
}

const pruneEvery = 60_000
const settleAgain = Schedule.exponential("100 millis")

const hung = (bells: Set<Bell.Bell>): Effect.Effect<Bell.Bell, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const bell = Bell.make()
      bells.add(bell)
      return bell
    }),
    (bell) => Effect.sync(() => bells.delete(bell))
  )
