/**
 * Keeps to the rates that a provider allows, before it has to say so: requests and tokens per minute.
 *
 * Who runs into a limit is refused by the provider, rests, and loses the time. This policy counts along. What a call will use is estimated and
 * taken before it is sent; when it has ended, what it did not use is given back and what it used in addition is taken as well.
 *
 * **Two sources**
 *
 * - `requestsPerMinute` and `tokensPerMinute`: limits of your own, for instance your part of a limit that several applications share.
 * - What the provider reports with an answer (`LlmResponse.limits`: size, rest, time until it is full). It tells of everybody's use. The newest
 *   report replaces what was known. A call that the rest covers passes; another waits until there is enough, if the limit is filled evenly or all
 *   at once, whichever is sooner.
 *
 * A policy without options only learns; it lets the call pass that is to find out whether anybody can answer. The first source is a {@link Meter}, the
 * second a {@link ToldMeter}, both in a {@link RateLimitStore}: in memory, or in a Redis that processes share. When the store fails, calls pass and an
 * event tells.
 *
 * **Waiting**
 *
 * The wait of each call is known when it comes. One that would be too long is refused at once, takes nothing, and says when to come back; a chain
 * then asks the next step. By default a call waits 1 s at most when it has nobody else to turn to, and not at all while another step is left: the
 * time is better spent there. It never waits beyond its deadline. Who leaves while waiting gives everything back.
 *
 * **What a call is charged**
 *
 * | the call                                               | requests | tokens                  |
 * | ------------------------------------------------------ | -------- | ----------------------- |
 * | was answered                                           | 1        | its usage, if it says so |
 * | was refused by the provider (429, 529, 400, 401, …)     | 1        | none                    |
 * | failed otherwise, or its caller left                   | 1        | the estimate            |
 * | was not sent (an open circuit, an interrupted wait)     | none     | none                    |
 *
 * **Neighbours**
 *
 * Inside `Retry`, so that each attempt is counted, inside `Bulkhead`, and outside `Timeouts`, whose clocks run from the moment of sending. How many
 * calls run at a time is the business of `Bulkhead`. What a 429 asks for is kept by `Cooldown`.
 *
 * @since 0.1.0
 */
import type { Prompt } from "effect/ai/Prompt"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { monotonic } from "./internal/monotonic.ts"
import { within } from "./internal/within.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import type { Limit, Limits } from "./LlmResponse.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Policy from "./Policy.ts"
import type { Failure, Provider } from "./Provider.ts"
import * as RateLimitStore from "./RateLimitStore.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * One rate limit. Several providers may share one, for instance two models of one account.
 *
 * **Details**
 *
 * `guard` puts it around a provider. `state` says what is left, of the limits that are known.
 *
 * @category models
 * @since 0.1.0
 */
export interface RateLimit {
  readonly guard: (self: Provider) => Provider
  readonly state: Effect.Effect<Limits>
}

/**
 * Service tag of {@link RateLimit}, for one that several providers share through {@link shared}.
 *
 * @category services
 * @since 0.1.0
 */
export const RateLimit: Context.Service<RateLimit, RateLimit> = Context.Service("@llm-resilience/core/RateLimit")

/**
 * Options of a rate limit.
 *
 * **Details**
 *
 * - `requestsPerMinute`, `tokensPerMinute`: limits of your own; none by default. A minute's worth may be used at once.
 * - `maxWait`: how long a call may wait. By default 1 s when no other step is left, and else not at all.
 * - `outputTokens`: what an answer is expected to take when the request sets no `maxOutputTokens`, 500 by default.
 * - `estimate`: your own estimate. By default, and where yours throws or gives what is no count, four characters are a token, a file is 1000 and a
 *   tool 100, and the answer takes all that it may.
 * - `storeWithin`: how long a store outside of this process may take, 250 ms by default; then the call passes. After three failures in a row all
 *   calls pass for 10 s without asking it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly requestsPerMinute?: number | undefined
  readonly tokensPerMinute?: number | undefined
  readonly maxWait?: Duration.Input | undefined
  readonly outputTokens?: number | undefined
  readonly estimate?: ((request: LlmRequest) => Estimate) | undefined
  readonly storeWithin?: Duration.Input | undefined
}

/**
 * What a call is expected to use, in tokens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Estimate {
  readonly input: number
  readonly output: number
}

/**
 * Creates a rate limit whose meters are in memory.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<RateLimit> => {
  const settings = settingsOf(options)
  return Effect.suspend(() => build(settings, RateLimitStore.makeMemory(), "only", Infinity))
}

/**
 * Creates a rate limit whose meters are in the store from the context, under `key`: who names the same key shares them.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeStored = (
  options: Options & { readonly key: string }
): Effect.Effect<RateLimit, never, RateLimitStore.RateLimitStore> => {
  const settings = settingsOf(options)
  const storeWithin = Duration.toMillis(options.storeWithin ?? "250 millis")
  return Effect.flatMap(RateLimitStore.RateLimitStore, (store) =>
    build(settings, failing(store), options.key, storeWithin)
  )
}

// A store that throws where it should give an effect fails like others, and one that cannot even look knows of nothing to wait for.
const failing = (store: RateLimitStore.RateLimitStore["Service"]): RateLimitStore.RateLimitStore["Service"] => ({
  take: (key, parts, maxWait) => Effect.suspend(() => store.take(key, parts, maxWait)),
  give: (key, parts) => Effect.suspend(() => store.give(key, parts)),
  tell: (key, name, report) => Effect.suspend(() => store.tell(key, name, report)),
  peek: (key, parts, now) => {
    try {
      return store.peek(key, parts, now)
    } catch {
      return 0
    }
  }
})

interface Settings {
  readonly requestsPerMinute: number | undefined
  readonly tokensPerMinute: number | undefined
  readonly maxWait: number | undefined
  readonly estimate: (request: LlmRequest) => Estimate
}

const settingsOf = (options: Options | undefined): Settings => {
  const { outputTokens = 500, requestsPerMinute, tokensPerMinute } = options ?? {}
  const numbers = { requestsPerMinute, tokensPerMinute, outputTokens }
  for (const [name, value] of Object.entries(numbers)) {
    if (value !== undefined && !(value > 0 && value < Infinity)) {
      throw new RangeError(`RateLimit.make: ${name} must be a number > 0, got ${value}`)
    }
  }
  return {
    requestsPerMinute,
    tokensPerMinute,
    maxWait: options?.maxWait === undefined ? undefined : Duration.toMillis(options.maxWait),
    estimate: careful(options?.estimate, (request) => estimated(request, outputTokens))
  }
}

// A tokenizer may throw at a text that it does not like, and one number that is none would end the counting for good.
const careful = (own: Options["estimate"], usual: Settings["estimate"]): Settings["estimate"] =>
  own === undefined
    ? usual
    : (request) => {
        try {
          const { input, output } = own(request)
          return input >= 0 && output >= 0 && input + output < Infinity ? { input, output } : usual(request)
        } catch {
          return usual(request)
        }
      }

const estimated = (request: LlmRequest, outputTokens: number): Estimate => ({
  input: 100 * request.tools.length + promptTokens(request.prompt),
  output: request.settings.maxOutputTokens ?? outputTokens
})

// A prompt is asked for several times on its way through a chain, and the result of a tool may be long.
const known = new WeakMap<Prompt, number>()

const promptTokens = (prompt: Prompt): number => {
  const counted = known.get(prompt)
  if (counted !== undefined) return counted
  let characters = 0
  let tokens = 0
  for (const { content } of prompt.content) {
    if (typeof content === "string") characters += content.length
    else {
      for (const part of content) {
        if (part.type === "text" || part.type === "reasoning") characters += part.text.length
        else if (part.type === "file") tokens += 1000
        else if (part.type === "tool-call") characters += written(part.params)
        else if (part.type === "tool-result") characters += written(part.result)
      }
    }
  }
  tokens += Math.ceil(characters / 4)
  known.set(prompt, tokens)
  return tokens
}

const written = (value: unknown): number => (typeof value === "string" ? value : (JSON.stringify(value) ?? "")).length

interface Ticket extends Estimate {
  /** What was taken; `undefined` when the store failed. */
  readonly parts: ReadonlyArray<RateLimitStore.Part> | undefined
  readonly marks: ReadonlyArray<number | undefined>
}

const build = (
  settings: Settings,
  store: RateLimitStore.RateLimitStore["Service"],
  key: string,
  storeWithin: number
): Effect.Effect<RateLimit> =>
  Effect.map(ResilienceEvent.CurrentHub, (hub) => {
    const { requestsPerMinute, tokensPerMinute } = settings
    const isLocal = storeWithin === Infinity
    const nothing: Estimate = { input: 0, output: 0 }
    // What was never reported need not be looked up.
    const told: { -readonly [name in keyof Limits]: boolean } = {}
    let isBounded = requestsPerMinute !== undefined || tokensPerMinute !== undefined

    // A report may be out of date: the call that is to find out whether anybody is back may find that out as well.
    const findsOut = (request: LlmRequest): boolean =>
      request.lastResort && requestsPerMinute === undefined && tokensPerMinute === undefined

    const estimate = (request: LlmRequest): Estimate =>
      tokensPerMinute !== undefined || told.tokens || told.inputTokens || told.outputTokens
        ? settings.estimate(request)
        : nothing

    const partsOf = (requests: number, { input, output }: Estimate): ReadonlyArray<RateLimitStore.Part> => {
      if (!isBounded) return none
      const parts: Array<RateLimitStore.Part> = []
      const tokens = input + output
      if (requestsPerMinute !== undefined)
        parts.push({ name: "requests", amount: requests, perMinute: requestsPerMinute })
      if (tokensPerMinute !== undefined) parts.push({ name: "tokens", amount: tokens, perMinute: tokensPerMinute })
      if (told.requests) parts.push({ name: "told.requests", amount: requests })
      if (told.tokens) parts.push({ name: "told.tokens", amount: tokens })
      if (told.inputTokens) parts.push({ name: "told.inputTokens", amount: input })
      if (told.outputTokens) parts.push({ name: "told.outputTokens", amount: output })
      return parts
    }

    const patienceOf = ({ commitBy, expiresAt, stepsLeft }: LlmRequest, now: number): number => {
      const most = settings.maxWait ?? (stepsLeft === 0 ? 1000 : 0)
      return Math.max(0, Math.min(most, expiresAt - now, commitBy - now))
    }

    // Asks a store, one elsewhere for as long as it may take. One that fails every time would cost every call as long, so it is left alone for a while.
    let failures = 0
    let restsUntil = -Infinity
    const rests = (clock: Clock.Clock): boolean => monotonic(clock) < restsUntil
    const asked = <A>(
      operation: "take" | "give",
      effect: Effect.Effect<A, RateLimitStore.RateLimitStoreError>
    ): Effect.Effect<A, RateLimitStore.RateLimitStoreError> =>
      isLocal
        ? effect
        : Clock.clockWith((clock) =>
            within(Effect.interruptible(effect), storeWithin, tooLate(operation), 0).pipe(
              Effect.tap(() => {
                failures = 0
                return Effect.void
              }),
              Effect.tapCause(() => {
                if (++failures >= 3) restsUntil = monotonic(clock) + storeRest
                return Effect.void
              })
            )
          )

    const report = (provider: string, operation: "take" | "give") => (cause: Cause.Cause<unknown>) => {
      if (hub.active()) hub.publish({ _tag: "LimitStoreFailed", provider, operation, cause: Cause.squash(cause) })
      return Effect.void
    }

    // What is told after a call delays nobody.
    const tell = (
      provider: string,
      effect: Effect.Effect<void, RateLimitStore.RateLimitStoreError>
    ): Effect.Effect<void> => {
      const told = Effect.catchCause(asked("give", effect), report(provider, "give"))
      if (isLocal) return told
      return Clock.clockWith((clock) => (rests(clock) ? Effect.void : Effect.asVoid(Effect.forkDetach(told))))
    }

    const admit = (self: Provider, request: LlmRequest, now: number): Effect.Effect<Ticket, Failure> => {
      if (!isBounded) return untaken
      const cost = estimate(request)
      const parts = findsOut(request) ? none : partsOf(1, cost)
      const ticket: Ticket = { ...cost, parts, marks: noMarks }
      if (parts.length === 0) return Effect.succeed(ticket)
      const passes: Ticket = { ...ticket, parts: undefined }
      if (now < restsUntil) return Effect.succeed(passes)
      const taking = Effect.matchCauseEffect(asked("take", store.take(key, parts, patienceOf(request, now))), {
        onFailure: (cause) => Effect.as(report(self.id, "take")(cause), passes),
        onSuccess: ({ by, marks, taken, wait }) => {
          if (!taken) return refuse(self, wait)
          const admitted = marks.length === 0 ? ticket : { ...ticket, marks }
          return isLocal && wait <= 0 ? Effect.succeed(admitted) : waiting(self, request, admitted, wait, by)
        }
      })
      return isLocal || request.expiresAt === Infinity ? taking : inTime(self, taking, passes, request.expiresAt - now)
    }

    // The deadline may come while a store elsewhere is asked. Then the call goes on, to be told so by whoever keeps the time, and what is taken for it
    // is given back when the store answers.
    const inTime = (
      self: Provider,
      taking: Effect.Effect<Ticket, Failure>,
      passes: Ticket,
      left: number
    ): Effect.Effect<Ticket, Failure> => {
      if (left <= 0) return Effect.succeed(passes)
      let got = passes
      const noted = Effect.map(Effect.uninterruptible(taking), (ticket) => {
        got = ticket
        return ticket
      })
      return Effect.onExit(Effect.interruptible(within(noted, left, () => Effect.succeed(passes), 0)), (exit) =>
        Exit.isFailure(exit) && got !== passes ? tell(self.id, store.give(key, marked(got))) : Effect.void
      )
    }

    // Whoever has left by then, or leaves while he waits, gives everything back.
    const waiting = (
      self: Provider,
      request: LlmRequest,
      ticket: Ticket,
      millis: number,
      by: RateLimitStore.Name | undefined
    ): Effect.Effect<Ticket> => {
      const wait = Duration.millis(millis)
      return Effect.map(
        Effect.onExit(Effect.interruptible(millis > 0 ? Effect.sleep(wait) : Effect.void), (exit) =>
          Exit.isFailure(exit) ? tell(self.id, store.give(key, marked(ticket))) : Effect.void
        ),
        () => {
          if (millis > 0 && hub.active()) {
            const limit = by === undefined || meters[by] === "requests" ? "requests" : "tokens"
            hub.publish({ _tag: "Throttled", request: request.id, provider: self.id, limit, wait })
          }
          return ticket
        }
      )
    }

    const settle = (self: Provider, ticket: Ticket, outcome: Policy.Outcome): Effect.Effect<void> => {
      const limits = outcome._tag === "Succeeded" ? outcome.limits : undefined
      const unused = unusedBy(ticket, outcome)
      const back = unused === undefined ? none : givenBack(ticket, unused, limits)
      if (limits === undefined && back.length === 0) return Effect.void
      const given = back.length === 0 ? Effect.void : store.give(key, back)
      return tell(
        self.id,
        limits === undefined ? given : Effect.andThen(given, learn(limits, ticket, outcome.duration))
      )
    }

    const learn = (limits: Limits, ticket: Ticket, ageMillis: number) =>
      Effect.forEach(
        reported,
        (name) => {
          const limit = limits[name]
          if (limit === undefined) return Effect.void
          const meter = `told.${name}` as const
          told[name] = true
          isBounded = true
          const mark = ticket.marks[ticket.parts?.findIndex((part) => part.name === meter) ?? -1]
          return store.tell(key, meter, reportOf(limit, ageMillis, mark))
        },
        { discard: true }
      )

    const state: Effect.Effect<Limits> = Clock.clockWith((clock) => {
      if (rests(clock)) return Effect.succeed({})
      const parts = partsOf(0, nothing)
      const looked = store.take(key, parts, 0)
      return Effect.catchCause(
        Effect.map(asked("take", looked), ({ left: inOrder }) => {
          const left = new Map(parts.map((part, index) => [part.name, inOrder[index]] as const))
          const limits: { -readonly [name in keyof Limits]: Limit } = {}
          for (const name of reported) {
            const own = name === "requests" ? requestsPerMinute : name === "tokens" ? tokensPerMinute : undefined
            const remaining = name === "requests" || name === "tokens" ? left.get(name) : undefined
            const told = left.get(`told.${name}`)
            const least = Math.floor(Math.min(remaining ?? Infinity, told ?? Infinity))
            if (least < Infinity) limits[name] = { ...(own === undefined ? {} : { limit: own }), remaining: least }
          }
          return limits
        }),
        () => Effect.succeed({})
      )
    })

    return {
      state,
      guard: (self) => ({
        ...self,
        ...Policy.observe<Ticket>({
          admit: (request, now) => admit(self, request, now),
          settle: (ticket, outcome) => settle(self, ticket, outcome)
        })(self),
        availability: (request, now) => {
          if (!isBounded) return self.availability(request, now)
          const parts = findsOut(request) ? none : partsOf(1, estimate(request))
          const wait = parts.length === 0 ? 0 : store.peek(key, parts, now)
          return wait > patienceOf(request, now)
            ? { _tag: "Saturated", retryAfter: Duration.millis(wait) }
            : self.availability(request, now)
        },
        status: Effect.zipWith(self.status, state, (inner, limits) =>
          inner.map((status) =>
            status.provider === self.id && Object.keys(limits).length > 0 ? { ...status, limits } : status
          )
        )
      })
    }
  })

const storeRest = 10_000

const tooLate = (operation: "take" | "give") => () =>
  Effect.fail(new RateLimitStore.RateLimitStoreError({ operation, cause: "It took too long" }))

const none: ReadonlyArray<RateLimitStore.Part> = []

const noMarks: ReadonlyArray<number | undefined> = []

const untaken = Effect.succeed<Ticket>({ input: 0, output: 0, parts: none, marks: noMarks })

const marked = ({ marks, parts = none }: Ticket): ReadonlyArray<RateLimitStore.Part> =>
  parts.map((part, index) => ({ ...part, mark: marks[index] }))

// Of what was taken; a store that failed took nothing. A report that comes with the answer settles its meter by itself.
const givenBack = (
  ticket: Ticket,
  { input, output, requests }: Estimate & { readonly requests: number },
  limits: Limits | undefined
): ReadonlyArray<RateLimitStore.Part> => {
  const amounts = { requests, tokens: input + output, inputTokens: input, outputTokens: output }
  const back: Array<RateLimitStore.Part> = []
  for (const [index, part] of (ticket.parts ?? none).entries()) {
    const isOwn = part.name === "requests" || part.name === "tokens"
    const name = meters[part.name]
    const amount = amounts[name]
    if (amount === 0 || (!isOwn && limits?.[name]?.remaining !== undefined)) continue
    back.push({ ...part, amount, mark: ticket.marks[index] })
  }
  return back
}

const meters = {
  requests: "requests",
  tokens: "tokens",
  "told.requests": "requests",
  "told.tokens": "tokens",
  "told.inputTokens": "inputTokens",
  "told.outputTokens": "outputTokens"
} as const

const reported = ["requests", "tokens", "inputTokens", "outputTokens"] as const

const reportOf = ({ limit, remaining, reset }: Limit, ageMillis: number, mark: number | undefined) => ({
  limit,
  remaining,
  resetMillis: reset === undefined ? undefined : Duration.toMillis(reset),
  ageMillis,
  mark
})

const refuse = (self: Provider, wait: number): Effect.Effect<never, Failure> => {
  const reason = { _tag: "Saturated" as const, retryAfter: Duration.millis(wait) }
  return Effect.fail(LlmUnavailable.make([{ _tag: "Skipped", provider: self.id, model: self.model, reason }]))
}

// What of the estimate a call did not use, negative when it used more; `undefined` when nobody knows.
const unusedBy = (
  { input, output }: Ticket,
  outcome: Policy.Outcome
): (Estimate & { readonly requests: number }) | undefined => {
  if (outcome._tag === "Succeeded") {
    const [read, wrote] = [outcome.usage?.inputTokens.total, outcome.usage?.outputTokens.total]
    if (read === undefined && wrote === undefined) return undefined
    return { requests: 0, input: input - (read ?? input), output: output - (wrote ?? output) }
  }
  if (outcome._tag === "Abandoned") return undefined
  if (outcome.error._tag === "LlmUnavailable") return { requests: 1, input, output }
  return isRefusal(outcome.error) ? { requests: 0, input, output } : undefined
}

// The provider read the request, if at all, and did no work for it.
const isRefusal = (error: Exclude<Failure, LlmUnavailable.LlmUnavailable>): boolean => {
  if (error._tag !== "APIError") return error._tag === "RateLimited"
  switch (error.reason) {
    case "Overloaded":
    case "Authentication":
    case "PermissionDenied":
    case "QuotaExhausted":
    case "ModelNotFound":
    case "ContextLengthExceeded":
    case "InvalidRequest":
      return true
    default:
      return false
  }
}

/**
 * Creates the policy that puts a rate limit of its own, in memory, around each provider it is applied to.
 *
 * **Example** (Two requests a minute)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmRequest, LlmResponse, Provider, RateLimit } from "@llm-resilience/core"
 *
 * const provider = Provider.make({
 *   id: "p",
 *   model: "m",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const limited = yield* RateLimit.policy({ requestsPerMinute: 2 })(provider)
 *     const call = Effect.match(limited.generate(LlmRequest.make({ prompt: "Hi" })), {
 *       onSuccess: (response) => response.text,
 *       onFailure: (error) => error._tag === "LlmUnavailable" ? error.suggestion : error.message
 *     })
 *     return [yield* call, yield* call, yield* call]
 *   })
 * )
 *
 * await Effect.runPromise(program) // => ["Hello!", "Hello!", "Try again in 30 seconds."]
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options?: Options): Policy.Policy => {
  const built = make(options)
  return (self) => Effect.map(built, (limit) => limit.guard(self))
}

/**
 * Creates the policy that keeps the meters of each provider in the store from the context, under the id of the provider unless a `key`
 * is given: what has the same key shares them, in this process and in others.
 *
 * @category policies
 * @since 0.1.0
 */
export const policyStored =
  (options?: Options & { readonly key?: string | undefined }): Policy.Policy<RateLimitStore.RateLimitStore> =>
  (self) =>
    Effect.map(makeStored({ ...options, key: options?.key ?? self.id }), (limit) => limit.guard(self))

/**
 * The policy that puts the rate limit from the context around every provider it is applied to.
 *
 * @category policies
 * @since 0.1.0
 */
export const shared: Policy.Policy<RateLimit> = (self) => Effect.map(RateLimit, (limit) => limit.guard(self))

/**
 * Layer that provides one rate limit in memory, to be used with {@link shared}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<RateLimit> => Layer.effect(RateLimit, make(options))

/**
 * Layer that provides one rate limit whose meters are in the store from the context, to be used with {@link shared}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerStored = (
  options: Options & { readonly key: string }
): Layer.Layer<RateLimit, never, RateLimitStore.RateLimitStore> => Layer.effect(RateLimit, makeStored(options))
