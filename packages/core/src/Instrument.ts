/**
 * What is put around requests and around calls while an application runs: spans, above all.
 *
 * Events tell what happened; an instrument is there while it happens. It can give the fiber of a request something (the span that an HTTP client
 * propagates) and take it back at the end. It changes nothing about the answer. `LlmResilience.instrument` puts one in place.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Provider } from "./Provider.ts"

/**
 * What asks and is asked: a whole chain, or one provider.
 *
 * @category models
 * @since 0.1.0
 */
export type Asked = Pick<Provider, "id" | "model" | "generate" | "stream">

/**
 * Two wrappers, each optional.
 *
 * **Details**
 *
 * `request` is put around each request as the application makes it, `call` around each single call to a provider: retries, hedges and answers
 * that a guard rejected are calls of their own. Requests have their `id` already.
 *
 * @category models
 * @since 0.1.0
 */
export interface Instrument {
  readonly request?: ((self: Asked) => Pick<Provider, "generate" | "stream">) | undefined
  readonly call?: ((self: Asked) => Pick<Provider, "generate" | "stream">) | undefined
}

/**
 * A place for instruments, empty at first.
 *
 * **Details**
 *
 * `add` puts one in place until the scope closes, around those that are there. `at` gives a provider around which they are: without any, it is
 * asked directly.
 *
 * @category models
 * @since 0.1.0
 */
export interface Instruments {
  readonly add: (instrument: Instrument) => Effect.Effect<void, never, Scope.Scope>
  readonly at: (level: keyof Instrument, self: Provider) => Provider
}

/**
 * Creates a place for instruments.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (): Instruments => {
  let present: ReadonlyArray<Instrument> = []
  const places: Array<() => void> = []
  const change = (next: ReadonlyArray<Instrument>): void => {
    present = next
    for (const fit of places) fit()
  }
  return {
    add: (instrument) => {
      const own = { ...instrument }
      return Effect.acquireRelease(
        Effect.sync(() => change([...present, own])),
        () => Effect.sync(() => change(present.filter((other) => other !== own)))
      )
    },
    at: (level, self) => {
      // Fitted when an instrument comes or goes, so that a request only reads a variable.
      let fitted: Pick<Provider, "generate" | "stream"> = self
      const fit = () => {
        fitted = present.reduce<Asked>((inner, instrument) => {
          const outer = instrument[level]?.(inner)
          return outer === undefined ? inner : { id: self.id, model: self.model, ...outer }
        }, self)
      }
      places.push(fit)
      fit()
      return { ...self, generate: (request) => fitted.generate(request), stream: (request) => fitted.stream(request) }
    }
  }
}
