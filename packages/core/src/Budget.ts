/**
 * Bounds how much more than one call each a provider is asked, so that an outage cannot amplify itself.
 *
 * When everything fails, every caller wants to ask again, and the provider gets several times its load in the worst moment. A budget
 * is shared by all calls to one provider: retries and hedges together may make up `ratio` of its calls, plus a small `floor` so that a quiet
 * application may retry at all. Who finds it empty does without: a retry falls over to the next provider, a hedge is not sent. Nobody waits.
 *
 * The rule is that of Finagle's `RetryBudget` and of the chapter "Addressing Cascading Failures" of Google's SRE book. Counts fade: half of
 * them is forgotten every `halfLife`.
 *
 * **Neighbours**
 *
 * Close to the provider, inside retries and breakers: it counts what reaches the provider. `Retry`, `Hedge` and the fallback chain ask
 * the `budget` that the provider carries; without one they are bounded by the request alone.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { fade } from "./internal/decay.ts"
import { monotonic } from "./internal/monotonic.ts"
import * as Policy from "./Policy.ts"
import type { Provider } from "./Provider.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * What is asked for beyond the one call of a request.
 *
 * @category models
 * @since 0.1.0
 */
export type Extra = "retry" | "hedge"

/**
 * The counts of a budget at the monotonic millisecond `at`: `calls`, and the `extras` that were granted.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly at: number
  readonly calls: number
  readonly extras: number
}

/**
 * The rules of a budget; see {@link Options}. `halfLife` is in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly ratio: number
  readonly floor: number
  readonly halfLife: number
}

/**
 * The counts of a new budget.
 *
 * @category constructors
 * @since 0.1.0
 */
export const initial: State = { at: -Infinity, calls: 0, extras: 0 }

const faded = ({ halfLife }: Settings, state: State, now: number): State => {
  const kept = fade(now - state.at, halfLife)
  return { at: Math.max(now, state.at), calls: state.calls * kept, extras: state.extras * kept }
}

/**
 * Counts a call that reaches the provider and is none of the extras.
 *
 * @category combinators
 * @since 0.1.0
 */
export const counted = (settings: Settings, state: State, now: number): State => {
  const current = faded(settings, state, now)
  return { ...current, calls: current.calls + 1 }
}

/**
 * Grants one more retry or hedge, or returns `undefined` when the budget is used up.
 *
 * @category combinators
 * @since 0.1.0
 */
export const granted = (settings: Settings, state: State, now: number): State | undefined => {
  const current = faded(settings, state, now)
  // Rounding must not cost the last of the extras that were promised.
  return current.extras + 1 <= settings.floor + settings.ratio * current.calls + 1e-6
    ? { ...current, extras: current.extras + 1 }
    : undefined
}

/**
 * Takes a grant back that came to nothing.
 *
 * @category combinators
 * @since 0.1.0
 */
export const restored = (state: State): State => ({ ...state, extras: Math.max(0, state.extras - 1) })

/**
 * Proof that a retry or a hedge was granted, which travels down with its request. `sent` becomes true when the provider sees it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Grant {
  readonly budget: Budget
  sent: boolean
}

/**
 * The budget of one provider. `guard` several with it, and they share it, as they may share an account.
 *
 * **Details**
 *
 * `grant` takes one retry or hedge out of the budget, synchronously, because it is asked in the middle of a call; `undefined` means that there is
 * none left. The request that it is for carries it as `request.grant`. `restore` takes back a grant that the provider never saw: another policy
 * refused it, or the caller left. `left` is how many are left now. `guard` counts the calls to a provider and makes it carry the budget.
 *
 * @category models
 * @since 0.1.0
 */
export interface Budget {
  readonly grant: (extra: Extra, now: number) => Grant | undefined
  readonly restore: (grant: Grant) => void
  readonly left: Effect.Effect<number>
  readonly guard: (self: Provider) => Provider
}

/**
 * Service tag of {@link Budget}, for one that several providers share through {@link shared}.
 *
 * @category services
 * @since 0.1.0
 */
export const Budget: Context.Service<Budget, Budget> = Context.Service("@llm-resilience/core/Budget")

/**
 * Options of a budget.
 *
 * **Details**
 *
 * - `ratio`: retries and hedges for each call, 0.2 by default.
 * - `floor`: retries and hedges that are always allowed, 10 by default.
 * - `halfLife`: after this time half of all counts is forgotten, 10 s by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly ratio?: number | undefined
  readonly floor?: number | undefined
  readonly halfLife?: Duration.Input | undefined
}

/**
 * Creates a budget.
 *
 * **Details**
 *
 * `name` is the provider that the event `BudgetExhausted` names.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options & { readonly name: string }): Effect.Effect<Budget> =>
  Effect.gen(function* () {
    const settings = settingsOf(options)
    const hub = yield* ResilienceEvent.CurrentHub
    let state = initial
    const budget: Budget = {
      grant: (extra, now) => {
        const next = granted(settings, state, now)
        if (next !== undefined) {
          state = next
          return { budget, sent: false }
        }
        if (hub.active()) hub.publish({ _tag: "BudgetExhausted", provider: options.name, extra })
        return undefined
      },
      restore: (grant) => {
        if (grant.budget === budget && !grant.sent) state = restored(state)
      },
      left: Clock.clockWith((clock) =>
        Effect.sync(() => {
          const { calls, extras } = faded(settings, state, monotonic(clock))
          return Math.max(0, Math.floor(settings.floor + settings.ratio * calls - extras + 1e-6))
        })
      ),
      guard: (self) => ({
        ...self,
        budget,
        ...Policy.observe<void>({
          admit: ({ grant }, now) => {
            const isExtra = grant?.sent === false && grant.budget === budget
            if (grant !== undefined) grant.sent = true
            if (!isExtra) state = counted(settings, state, now)
            return Effect.void
          },
          settle: () => Effect.void
        })(self),
        status: Effect.zipWith(self.status, budget.left, (inner, left) =>
          inner.map((status) => (status.provider === self.id ? { ...status, budget: left } : status))
        )
      })
    }
    return budget
  })

const settingsOf = (options: Options): Settings => {
  const ratio = options.ratio ?? 0.2
  const floor = options.floor ?? 10
  const halfLife = Duration.toMillis(options.halfLife ?? "10 seconds")
  if (!(ratio >= 0 && ratio <= 1)) throw new RangeError(`Budget.make: ratio must be in [0, 1], got ${ratio}`)
  if (!(floor >= 0 && Number.isFinite(floor))) {
    throw new RangeError(`Budget.make: floor must be a finite number >= 0, got ${floor}`)
  }
  if (!(halfLife > 0)) throw new RangeError(`Budget.make: halfLife must be longer than zero, got ${halfLife} ms`)
  return { ratio, floor, halfLife }
}

/**
 * Creates the policy that gives each provider it is applied to a budget of its own.
 *
 * **Example** (An empty budget turns a retry into a fallback)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schedule } from "effect"
 * import { Budget, LlmRequest, Policy, Provider, ProviderError, Retry } from "@llm-resilience/core"
 *
 * let asked = 0
 * const broken = Provider.make({
 *   id: "broken",
 *   model: "m",
 *   generate: () => {
 *     asked++
 *     return Effect.fail(new ProviderError.APIError({ provider: "broken", reason: "ServerError", description: "500" }))
 *   }
 * })
 * const policy = Policy.all([Retry.policy({ schedule: Schedule.recurs(5) }), Budget.policy({ floor: 2, ratio: 0 })])
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const provider = yield* policy(broken)
 *     yield* Effect.ignore(provider.generate(LlmRequest.make({ prompt: "Hi" })))
 *     return asked
 *   })
 * )
 *
 * await Effect.runPromise(program) // => 3
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy =
  (options?: Options): Policy.Policy =>
  (self) =>
    Effect.map(make({ ...options, name: self.id }), (budget) => budget.guard(self))

/**
 * The policy that puts the budget from the context around every provider it is applied to, so that they share it.
 *
 * @category policies
 * @since 0.1.0
 */
export const shared: Policy.Policy<Budget> = (self) => Effect.map(Budget, (budget) => budget.guard(self))

/**
 * Layer that provides one budget, to be used with {@link shared}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options & { readonly name: string }): Layer.Layer<Budget> =>
  Layer.effect(Budget, make(options))
