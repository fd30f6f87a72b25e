import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, FileSystem, Path, Schema, Stream } from "effect"
import { ChildProcess } from "effect/process"

it.live("the published packages install, type-check and run in a project of their own", () =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const root = path.join(import.meta.dirname, "../..")
    const names = ["core", "providers", "testing", "opentelemetry", "embedder-minilm"]
    const versions = yield* fs.readFileString(path.join(root, "package.json")).pipe(Effect.flatMap(devDependencies))
    const project = yield* fs.makeTempDirectoryScoped({ prefix: "llm-resilience-" })
    const write = (file: string, content: object) =>
      fs.writeFileString(path.join(project, file), JSON.stringify(content))

    yield* run(root, "npm", ["run", "build"])
    const workspaces = names.map((name) => `--workspace=packages/${name}`)
    yield* run(root, "npm", ["pack", "--ignore-scripts", "--pack-destination", project, ...workspaces])
    const tarballs = yield* fs.readDirectory(project)
    yield* write("package.json", { private: true, type: "module" })
    yield* write("tsconfig.json", {
      compilerOptions: { strict: true, noEmit: true, target: "ES2024", module: "NodeNext", types: ["node"] }
    })
    yield* fs.copyFile(path.join(root, "test/support/quickStart.ts"), path.join(project, "quickStart.ts"))
    const peers = ["effect", "@types/node"].map((name) => `${name}@${versions[name]}`)
    const flags = ["--prefix", project, "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    yield* run(project, "npm", ["install", ...flags, ...peers, ...tarballs.map((tarball) => `./${tarball}`)])

    for (const name of names) {
      const installed = path.join(project, "node_modules/@llm-resilience", name)
      const entries = yield* fs.readDirectory(installed, { recursive: true })
      const files = entries.map((entry) => entry.replaceAll(path.sep, "/"))
      const wanted = ["package.json", "README.md", "dist/index.js", "dist/index.d.ts", "src/index.ts"]
      const unwanted = /\.tsbuildinfo$|\.test\.|^test|^node_modules/
      assert.deepStrictEqual(
        {
          missing: wanted.filter((file) => !files.includes(file)),
          stray: files.filter((file) => unwanted.test(file))
        },
        { missing: [], stray: [] },
        name
      )
    }
    yield* run(project, process.execPath, [path.join(root, "node_modules/typescript/bin/tsc"), "--project", "."])
    // Older Nodes announce that they understand types.
    const output = yield* run(project, process.execPath, ["--disable-warning=ExperimentalWarning", "quickStart.ts"])

    assert.strictEqual(output, "openai: Hello to you too.\nanthropic: Hello from the second.\n")
  }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
)

const devDependencies = (manifest: string) =>
  Schema.decodeEffect(
    Schema.fromJsonString(Schema.Struct({ devDependencies: Schema.Record(Schema.String, Schema.String) }))
  )(manifest).pipe(Effect.map((decoded) => decoded.devDependencies))

/** Runs a command to its end and returns what it wrote; one that fails is a defect that tells what it wrote. */
const run = Effect.fnUntraced(function* (cwd: string, command: string, args: ReadonlyArray<string>) {
  // On Windows npm is a script, which takes a shell to start.
  const shell = command === "npm" && process.platform === "win32"
  const handle = yield* ChildProcess.make(command, args, { cwd, shell, stdin: "ignore" })
  const output = yield* Stream.mkString(Stream.decodeText(handle.all))
  const exitCode = yield* handle.exitCode
  if (exitCode !== 0) return yield* Effect.die(new Error(`${command} ${args.join(" ")}: ${exitCode}\n${output}`))
  return output
}, Effect.scoped)
