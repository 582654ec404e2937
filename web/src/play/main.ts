import { byId, el } from "../shared/dom";
import { themeButton } from "../shared/theme";

byId("app").append(el("main", {}, el("h1", {}, "stepscope play"), themeButton()));
