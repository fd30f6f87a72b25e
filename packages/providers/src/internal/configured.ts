import * as Config from "effect/Config"
import * as Record from "effect/Record"

/** Options of which each may come from the configuration. */
export type Configured<Options> = {
  readonly [K in keyof Options]: Options[K] | Config.Config<Exclude<Options[K], undefined>>
}

/** Reads those options that are a `Config`, all at once. */
export const configured = <Options extends object>(options: Configured<Options>): Config.Config<Options> =>
  // The compiler cannot see that replacing each `Config` by its value turns `Configured<Options>` into `Options`.
  Config.all(
    Record.map(options as Record<string, unknown>, (option) =>
      Config.isConfig(option) ? option : Config.succeed(option)
    )
  ) as unknown as Config.Config<Options>
