/**
 * Accepts with a ticket what nobody can answer now, and answers it later.
 *
 * A request that may wait (`mayWait: true`) and finds every provider down is not refused but kept. The caller gets an `LlmUnavailable` whose
 * notice is `Queued` and carries the ticket, and comes back with it: `await`, `status`, `cancel`. With a store that outlives
 * the process ({@link DeferredStore.layerSql}) nothing accepted is lost, whatever happens to the process.
 *
 * **How it is worked off**
 *
 * The worker asks the chain whether anybody would take a request (`Provider.availability`) before it touches the queue, so nothing is tried, and
 * no attempt is used up, while breakers are open and providers rest. After an outage it begins with one request; each answer allows one more at a
 * time, up to `concurrency`, and starts are `every` apart. The first failure takes it back to one and lets it pause. So the backlog is never a
 * stampede on a provider that has just come back, and it is the backlog, not a user, that pays for the first probe.
 *
 * The highest priority goes first, then the oldest. A request that fails although others are answered waits longer and longer, and dies after
 * `maxAttempts`; one that would be rejected again and again (an invalid request) dies at once. The dead are kept with their reason, can be
 * listed, and queued again.
 *
 * **What is promised**
 *
 * - Every ticket ends exactly one way: answered, expired, cancelled or dead. The first end counts, all others change nothing.
 * - The model is asked at least once: when a worker dies between the answer and its commit, it is asked again. The caller sees one answer.
 * - The same idempotency key gives the same ticket, as long as its result is kept.
 * - The handler sees every result at least once, with the ticket to recognise one that it has seen.
 * - Nobody waits for a store that hangs: an operation that takes longer than `storeWithin` has failed, and whatever is lost by that is taken up again.
 *
 * **What it does not do**
 *
 * Requests with tools or a JSON schema are not accepted: both hold code that cannot be written down. Streams are answered whole. A ticket is the
 * only thing that protects its answer: it cannot be guessed, but who has it can read it.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Decision from "./Decision.ts"
import * as DeferredStore from "./DeferredStore.ts"
import { workingOff } from "./internal/backlog.ts"
import type { Bell } from "./internal/bell.ts"
import * as Codec from "./internal/deferredCodec.ts"
import { guarded } from "./internal/deferredGuard.ts"
import { deferring } from "./internal/deferring.ts"
import { stackless } from "./internal/stackless.ts"
import { wallNow } from "./internal/wall.ts"
import type * as LlmRequest from "./LlmRequest.ts"
import type * as LlmResponse from "./LlmResponse.ts"
import * as Notice from "./Notice.ts"
import type * as Policy from "./Policy.ts"
import type { Provider } from "./Provider.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * How an accepted request ended.
 *
 * **Details**
 *
 * `Dead` means that it was given up; `reason` is for the operator. An operator may queue it again, and then it ends once more.
 *
 * @category models
 * @since 0.1.0
 */
export type Settled =
  | { readonly _tag: "Answered"; readonly ticket: string; readonly response: LlmResponse.LlmResponse }
  | { readonly _tag: "Expired"; readonly ticket: string }
  | { readonly _tag: "Cancelled"; readonly ticket: string }
  | { readonly _tag: "Dead"; readonly ticket: string; readonly reason: string; readonly attempts: number }

/**
 * Where an accepted request is: waiting, being asked, or at its end. `attempts` is how often it was tried.
 *
 * @category models
 * @since 0.1.0
 */
export type Status =
  | {
      readonly _tag: "Queued"
      readonly ticket: string
      readonly attempts: number
      readonly expiresAfter: Duration.Duration
    }
  | { readonly _tag: "Running"; readonly ticket: string; readonly attempts: number }
  | Settled

/**
 * A request that was given up. `request` is absent when what is stored cannot be read.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeadLetter {
  readonly ticket: string
  readonly scope: string | undefined
  readonly reason: string
  readonly attempts: number
  readonly request: LlmRequest.LlmRequest | undefined
}

/**
 * What a caller may say about a request that it hands in.
 *
 * **Details**
 *
 * - `key`: an idempotency key. The same key in the same scope gives the same ticket.
 * - `priority`: an integer, higher goes first; by default 1, 0 or -1 for a critical, normal or batch request.
 * - `expiresAfter`: that of the queue by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Terms {
  readonly key?: string | undefined
  readonly priority?: number | undefined
  readonly expiresAfter?: Duration.Input | undefined
}

/**
 * The queue of one chain.
 *
 * **Details**
 *
 * - `accept` stores a request and returns its ticket; when it returns, the request is safe.
 * - `await` waits for the end, in whichever process it happens. `status` looks once. `cancel` says whether it was in time.
 * - `size` is how many are waiting and how many are being asked.
 * - `deadLetters` lists the oldest of those that were given up, 100 unless told otherwise. `requeue` gives one a new life.
 * - `workOff` asks a provider, usually a chain, for answers, until it is interrupted. {@link policy} does it for you.
 *
 * @category services
 * @since 0.1.0
 */
export class DeferredQueue extends Context.Service<
  DeferredQueue,
  {
    readonly accept: (
      request: LlmRequest.LlmRequest,
      terms?: Terms
    ) => Effect.Effect<string, QueueFull | NotDeferrable | DeferredStore.StoreError>
    readonly await: (ticket: string) => Effect.Effect<Settled, TicketUnknown | DeferredStore.StoreError>
    readonly status: (ticket: string) => Effect.Effect<Status, TicketUnknown | DeferredStore.StoreError>
    readonly cancel: (ticket: string) => Effect.Effect<boolean, DeferredStore.StoreError>
    readonly size: Effect.Effect<DeferredStore.Counts, DeferredStore.StoreError>
    readonly deadLetters: (limit?: number) => Effect.Effect<ReadonlyArray<DeadLetter>, DeferredStore.StoreError>
    readonly requeue: (ticket: string) => Effect.Effect<void, TicketUnknown | DeferredStore.StoreError>
    readonly workOff: (provider: Provider) => Effect.Effect<never>
    readonly expiresAfter: Duration.Duration
  }
>()("@llm-resilience/core/DeferredQueue") {}

/**
 * Options of the queue.
 *
 * **Details**
 *
 * - `capacity`: how many requests may wait, 10 000 by default; one more is refused at once. `maxBytes`: the largest request, 1 MiB of JSON.
 * - `expiresAfter`: how long a request is tried, 24 hours by default.
 * - `maxAttempts`: how often one request is tried before it is dead, 10 by default. `backoff`: how long it waits after its first failure, 10 s by
 *   default, doubled by each further one up to `maxBackoff`, 10 minutes by default.
 * - `concurrency`: how many are asked at the same time once all is well, 4 by default. `every`: the least time between two starts, 100 ms.
 * - `deadline`: for one attempt, and for the handler, 5 minutes by default. Nobody is watching, so it may be longer than that of a user.
 * - `lease`: how long after the death of its worker a request is taken up by another one, 30 s by default.
 * - `storeWithin`: how long one operation of the store may take before it has failed, 5 s by default; a claim no longer than a third of the `lease`, its
 *   renewal no longer than a sixth.
 * - `pollInterval`: how often the store is asked for what other processes did, 1 s by default.
 * - `keepFor`, `keepAtMost`: how long, and how many, results and dead letters are kept; 7 days and 10 000 by default.
 * - `onSettled`: the handler. It runs next to the worker, one result at a time, and again after `lease` when it failed or took too long.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<out R = never> {
  readonly capacity?: number | undefined
  readonly maxBytes?: number | undefined
  readonly expiresAfter?: Duration.Input | undefined
  readonly maxAttempts?: number | undefined
  readonly backoff?: Duration.Input | undefined
  readonly maxBackoff?: Duration.Input | undefined
  readonly concurrency?: number | undefined
  readonly every?: Duration.Input | undefined
  readonly deadline?: Duration.Input | undefined
  readonly lease?: Duration.Input | undefined
  readonly storeWithin?: Duration.Input | undefined
  readonly pollInterval?: Duration.Input | undefined
  readonly keepFor?: Duration.Input | undefined
  readonly keepAtMost?: number | undefined
  readonly onSettled?: ((settled: Settled) => Effect.Effect<void, unknown, R>) | undefined
}

/**
 * Creates the queue over a store.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <R = never>(
  options?: Options<R>
): Effect.Effect<DeferredQueue["Service"], never, DeferredStore.DeferredStore | R> =>
  Effect.gen(function* () {
    const capacity = positive("capacity", options?.capacity ?? 10_000)
    const maxBytes = positive("maxBytes", options?.maxBytes ?? 1_048_576)
    const maxAttempts = positive("maxAttempts", options?.maxAttempts ?? 10)
    const concurrency = positive("concurrency", options?.concurrency ?? 4)
    const keep = positive("keepAtMost", options?.keepAtMost ?? 10_000)
    const expiresAfter = Duration.fromInputUnsafe(options?.expiresAfter ?? "24 hours")
    const backoff = Duration.toMillis(options?.backoff ?? "10 seconds")
    const maxBackoff = Duration.toMillis(options?.maxBackoff ?? "10 minutes")
    const every = Duration.toMillis(options?.every ?? "100 millis")
    const deadline = Duration.fromInputUnsafe(options?.deadline ?? "5 minutes")
    const lease = Math.ceil(positive("lease", Duration.toMillis(options?.lease ?? "30 seconds")))
    const storeWithin = positive("storeWithin", Duration.toMillis(options?.storeWithin ?? "5 seconds"))
    const poll = positive("pollInterval", Duration.toMillis(options?.pollInterval ?? "1 second"))
    const keepFor = Math.ceil(Duration.toMillis(options?.keepFor ?? "7 days"))
    const handler = options?.onSettled

    const store = guarded(yield* DeferredStore.DeferredStore, { lease, storeWithin })
    // A worker brings the hub of its chain, which may be another one than that in force here.
    const hubs = new Set([yield* ResilienceEvent.CurrentHub])
    const table = yield* Decision.CurrentTable
    const context = yield* Effect.context<R>()

    const waiting = new Map<string, Set<Deferred.Deferred<void>>>()
    const asking = new Map<string, Fiber.Fiber<unknown, unknown>>()
    const workers = new Set<Bell>()
    const deliveries = new Set<Bell>()
    const ring = (bells: ReadonlySet<Bell>): void => {
      for (const bell of bells) bell.ring()
    }

    const publish = (event: () => ResilienceEvent.ResilienceEvent): void => {
      for (const hub of hubs) if (hub.active()) hub.publish(event())
    }
    const ended = (ticket: string, outcome: Settled["_tag"]): void => {
      publish(() => ({ _tag: "DeferredEnded", ticket, outcome }))
      for (const signal of waiting.get(ticket) ?? []) Deferred.doneUnsafe(signal, Exit.void)
      ring(deliveries)
    }

    const accept: DeferredQueue["Service"]["accept"] = (request, terms) =>
      Effect.gen(function* () {
        const lacking = Codec.unsupported(request)
        if (lacking !== undefined) return yield* notDeferrable(lacking)
        const priority = terms?.priority ?? ranks[request.priority]
        if (!Number.isInteger(priority)) {
          throw new RangeError(`DeferredQueue.accept: priority must be an integer, got ${priority}`)
        }
        const encoded = yield* Effect.catchCause(Codec.encodeRequest(request), () => notDeferrable("notJson"))
        if (encoded.length > maxBytes) return yield* notDeferrable("tooLarge")
        const now = yield* wallNow
        const life = terms?.expiresAfter === undefined ? expiresAfter : Duration.fromInputUnsafe(terms.expiresAfter)
        const ticket = SecureRandom.uuidV4Unsafe()
        const inserted = yield* store.insert(
          {
            ticket,
            key: terms?.key === undefined ? undefined : JSON.stringify([request.scope ?? null, terms.key]),
            scope: request.scope,
            priority,
            request: encoded,
            acceptedAt: now,
            expiresAt: Math.min(now + Math.ceil(Duration.toMillis(life)), Number.MAX_SAFE_INTEGER)
          },
          capacity
        )
        switch (inserted._tag) {
          case "Full":
            return yield* Effect.fail(stackless(() => new QueueFull({ capacity })))
          case "Duplicate":
            return inserted.ticket
          case "Inserted":
            ring(workers)
            return ticket
        }
      })

    const find = (ticket: string) =>
      Effect.flatMap(store.find(ticket), (row) =>
        row === undefined ? Effect.fail(new TicketUnknown({ ticket })) : Effect.succeed(row)
      )

    const awaitEnd = (ticket: string): Effect.Effect<Settled, TicketUnknown | DeferredStore.StoreError> =>
      Effect.suspend(() => {
        const signal = Deferred.makeUnsafe<void>()
        // Listens before it looks, so that no end falls in between.
        const listeners = waiting.get(ticket) ?? new Set()
        waiting.set(ticket, listeners.add(signal))
        const look: Effect.Effect<Settled, TicketUnknown | DeferredStore.StoreError> = Effect.flatMap(
          find(ticket),
          (row) => {
            const settled = Codec.settledOf(row)
            return settled ?? Effect.andThen(Effect.timeoutOption(Deferred.await(signal), poll), look)
          }
        )
        return Effect.ensuring(
          look,
          Effect.sync(() => {
            listeners.delete(signal)
            if (listeners.size === 0 && waiting.get(ticket) === listeners) waiting.delete(ticket)
          })
        )
      })

    const workOff = workingOff({
      store,
      table,
      hubs,
      workers,
      deliveries,
      asking,
      ended,
      publish,
      handler: handler === undefined ? undefined : (settled) => Effect.provideContext(handler(settled), context),
      maxAttempts,
      concurrency,
      keep,
      backoff,
      maxBackoff,
      every,
      deadline,
      lease,
      poll,
      keepFor
    })

    return DeferredQueue.of({
      accept,
      await: awaitEnd,
      status: (ticket) =>
        Effect.flatMap(find(ticket), (row): Effect.Effect<Status, DeferredStore.StoreError> => {
          const { attempts, expiresAt, state } = row
          if (state === "running") return Effect.succeed({ _tag: "Running", ticket, attempts })
          return (
            Codec.settledOf(row) ??
            Effect.map(wallNow, (now) => ({
              _tag: "Queued",
              ticket,
              attempts,
              expiresAfter: Duration.millis(Math.max(0, expiresAt - now))
            }))
          )
        }),
      cancel: (ticket) =>
        Effect.gen(function* () {
          const first = yield* store.cancel({ ticket, now: yield* wallNow })
          if (!first) return false
          ended(ticket, "Cancelled")
          // Nobody waits for the answer any more, so the model need not write it.
          asking.get(ticket)?.interruptUnsafe()
          return true
        }),
      size: store.counts,
      deadLetters: (limit = 100) =>
        Effect.flatMap(store.dead(positive("limit", limit)), (rows) =>
          Effect.forEach(rows, (row) =>
            Effect.map(Effect.exit(Codec.decodeRequest(row.request)), (request) => ({
              ticket: row.ticket,
              scope: row.scope,
              reason: row.note ?? "unknown",
              attempts: row.attempts,
              request: Exit.isSuccess(request) ? request.value : undefined
            }))
          )
        ),
      requeue: (ticket) =>
        Effect.gen(function* () {
          const now = yield* wallNow
          const expiresAt = Math.min(now + Math.ceil(Duration.toMillis(expiresAfter)), Number.MAX_SAFE_INTEGER)
          if (!(yield* store.requeue({ ticket, now, expiresAt }))) return yield* new TicketUnknown({ ticket })
          ring(workers)
        }),
      workOff,
      expiresAfter
    })
  })

const positive = (name: string, value: number): number => {
  if (Number.isFinite(value) && value > 0) return value
  throw new RangeError(`DeferredQueue.make: ${name} must be above zero, got ${value}`)
}

const ranks: { readonly [P in LlmRequest.Priority]: number } = { critical: 1, normal: 0, batch: -1 }

/**
 * Layer that provides the queue over a store.
 *
 * **Gotchas**
 *
 * Give the same layer to the chain (through {@link policy}) and to the program that asks for its tickets, so that both have the same queue.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <R = never>(
  options?: Options<R>
): Layer.Layer<DeferredQueue, never, DeferredStore.DeferredStore | R> => Layer.effect(DeferredQueue, make(options))

/**
 * Layer that provides the queue in memory: what waits is lost with the process.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = <R = never>(options?: Options<R>): Layer.Layer<DeferredQueue, never, R> =>
  Layer.provide(layer(options), DeferredStore.layerMemory)

/**
 * Options of the policy.
 *
 * **Details**
 *
 * - `terms`: the idempotency key, priority and life of a request; none, that of the request and that of the queue by default.
 * - `work`: whether this process works the queue off (`here`, the default) or only fills it (`elsewhere`).
 * - `acceptWithin`: how long the store may take to accept a request before its caller is told no, 2 s by default. It comes on top of the
 *   deadline of the request, because a ticket is worth most to those whose time ran out.
 *
 * @category models
 * @since 0.1.0
 */
export interface PolicyOptions {
  readonly terms?: ((request: LlmRequest.LlmRequest) => Terms) | undefined
  readonly work?: "here" | "elsewhere" | undefined
  readonly acceptWithin?: Duration.Input | undefined
}

/**
 * Creates the policy: a request that may wait and that nobody can answer is accepted, and the provider inside works the queue off.
 *
 * **Details**
 *
 * The caller's error stays an `LlmUnavailable`. Its notice is `Queued`, with the ticket, when the request was accepted. When it was not,
 * although it may wait, `notQueued` says why: the queue is full, the request cannot be stored, the store failed.
 *
 * Put it first in `around`: an answer from a cache inside it is better than a ticket. A request that could still be answered by another
 * step of an outer chain is not accepted, nor is one that no model could ever answer because it is too long.
 *
 * **Example** (A ticket instead of an error)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { DeferredQueue, LlmResilience, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
 *
 * let up = false
 * const provider = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "shaky",
 *   model: "large",
 *   generate: () => up
 *     ? Effect.succeed({ content: LlmResponse.textContent("Hello, at last!") })
 *     : Effect.fail(new ProviderError.APIError({ provider: "shaky", reason: "InvalidResponse", description: "?" }))
 * }))
 *
 * const queue = DeferredQueue.layerMemory({ backoff: "100 millis", pollInterval: "50 millis" })
 * const resilient = LlmResilience.layer({
 *   steps: [{ provider, policy: LlmResilience.standard({ retry: "off" }) }],
 *   around: DeferredQueue.policy()
 * })
 *
 * const program = Effect.gen(function*() {
 *   const reply = yield* LlmResilience.generateOrNotice({ prompt: "Hi", mayWait: true })
 *   if (reply._tag !== "Queued") return reply._tag
 *   up = true
 *   const { await: end } = yield* DeferredQueue.DeferredQueue
 *   const settled = yield* end(reply.ticket)
 *   return [reply.notice.message, settled._tag === "Answered" ? settled.response.text : settled._tag]
 * })
 *
 * await Effect.runPromise(Effect.provide(program, Layer.provideMerge(resilient, queue)))
 * // => ["Your request has been queued and will be processed shortly.", "Hello, at last!"]
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options?: PolicyOptions): Policy.Policy<DeferredQueue> => {
  const acceptWithin = Duration.toMillis(options?.acceptWithin ?? "2 seconds")
  return (self) =>
    Effect.gen(function* () {
      const queue = yield* DeferredQueue
      const hub = yield* ResilienceEvent.CurrentHub
      const translate = yield* Notice.translator
      if (options?.work !== "elsewhere") yield* Effect.forkScoped(queue.workOff(self))
      return deferring(self, queue, hub, { translate, acceptWithin, terms: options?.terms })
    })
}

/**
 * Error raised when as many requests wait as may wait.
 *
 * @category errors
 * @since 0.1.0
 */
export class QueueFull extends Schema.TaggedError<QueueFull>("@llm-resilience/core/DeferredQueue/QueueFull")(
  "QueueFull",
  { capacity: Schema.Number }
) {
  override readonly message = "The deferred queue is full"
}

/**
 * Error raised when a request cannot be stored: it has tools or a JSON schema, which hold code; its prompt holds what is not JSON; it is too
 * large.
 *
 * @category errors
 * @since 0.1.0
 */
export class NotDeferrable extends Schema.TaggedError<NotDeferrable>(
  "@llm-resilience/core/DeferredQueue/NotDeferrable"
)("NotDeferrable", { because: Schema.Literals(["tools", "json", "notJson", "tooLarge"]) }) {
  override readonly message = "The request cannot be kept for later"
}

const notDeferrable = (because: NotDeferrable["because"]) =>
  Effect.fail(stackless(() => new NotDeferrable({ because })))

/**
 * Error raised when there is no request with this ticket: there never was, it was removed long after its end, or, for `requeue`, it is not dead.
 *
 * @category errors
 * @since 0.1.0
 */
export class TicketUnknown extends Schema.TaggedError<TicketUnknown>(
  "@llm-resilience/core/DeferredQueue/TicketUnknown"
)("TicketUnknown", { ticket: Schema.String }) {
  override readonly message = "There is no such deferred request"
}
